"""Images with boxes and masks: COCO and YOLO files, masks as polygons or run lengths, and views of both."""

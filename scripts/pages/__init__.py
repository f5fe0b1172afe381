"""What scripts/run_pages.py is made of: the commands of the pages, the stage they are run on, and the running."""

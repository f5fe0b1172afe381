"""The MViT itself: presets, attention, layers, blocks, the network, and which blocks are recomputed."""

"""From decoded frames to a clip: crops, flips, RandAugment, erasing, mixing, on the CPU or the GPU."""

"""A trained model in one file for elsewhere: safetensors, torch.export and ONNX, each with all that its input must be.

See about.py for what such a file says of itself, writing.py for the files, programs.py for running them, parity.py and
object_parity.py for the bounds within which they give what the model gives, model_card.py for the page on a hub.
"""

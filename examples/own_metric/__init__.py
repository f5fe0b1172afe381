"""An own metric beside those of the classification: how far the model's confidence is from its accuracy."""

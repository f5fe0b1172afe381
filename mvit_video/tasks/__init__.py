"""What differs between tasks: the loss of a batch, what a prediction is, how it is scored and how it is shown."""

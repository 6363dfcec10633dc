"""What a request becomes on its way to the model, and what its rows become on their way back."""

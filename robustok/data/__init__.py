"""Images and tokens: reading them, splitting and cropping images, and the order of batches in training."""

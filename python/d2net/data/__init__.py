"""Reading and writing features, annotations, detections and activations."""

"""From features to activations, and from activations to detections (Sec. 3.3)."""

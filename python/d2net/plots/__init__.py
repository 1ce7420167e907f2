"""Pictures of runs: timelines of videos, training curves, precision and recall, embeddings."""

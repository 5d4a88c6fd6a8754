"""A file for each family of checkpoints, named as its `model_type`; `checkpoints/architecture.py` tells of them."""

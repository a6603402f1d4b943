"""PyTorch programs that compute what models of this project compute, and the training steps of both side by side."""

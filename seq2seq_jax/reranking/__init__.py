"""Reranking: n-best lists ordered anew by a weighted sum of features, whose weights are tuned on a split."""

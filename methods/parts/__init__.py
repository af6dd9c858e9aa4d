"""What methods are made of and share: bases and their sides, quantised tensors, restarts, limiters, anchors."""

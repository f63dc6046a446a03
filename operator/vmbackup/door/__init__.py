"""What both processes stand on: the watches, and the signs of life that a kubelet asks for."""

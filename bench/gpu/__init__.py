"""The kit that measures on a CUDA GPU, and proves the kernels right in the same run."""

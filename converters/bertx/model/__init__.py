"""What is computed: tasks and their heads, strict loading, the tensor-only wrapper, pooling."""

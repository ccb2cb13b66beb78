"""The kernels: C++ sources, their build, and the step that calls them."""

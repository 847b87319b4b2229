"""The mathematics of the papers: invertible layers, transforms, lifting, shrinkage."""

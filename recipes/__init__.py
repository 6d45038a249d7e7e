"""Ready tasks on real data: shipped in the package as ``edgeprune.recipe_files``, run as files."""

"""Parts of benchmarks/recipe.py: what is compared, how a run is scored and kept, and the page."""

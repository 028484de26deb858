"""The page that benchmarks/recipe.py writes."""
def write_page(*a): return "no page yet"

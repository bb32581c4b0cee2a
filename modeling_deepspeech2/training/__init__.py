"""What only training needs; the package itself never imports it."""

"""Everything that only training needs; inference never imports it."""

"""What it costs: products, price books, contracts, and the rating of usage."""

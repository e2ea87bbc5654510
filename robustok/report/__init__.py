"""What people see of results: pages, figures and tables."""

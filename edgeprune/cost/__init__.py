"""From kernels to budgets: tables, priors, and the models of latency, memory, energy and size over them."""

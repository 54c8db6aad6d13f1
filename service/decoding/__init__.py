"""How tokens are chosen: parameters, logit rules, sampling. Knows nothing about requests."""

"""Training: recipes in, run folders out. See `fer_deploy.training.fit.train`."""

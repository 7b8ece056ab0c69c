"""Why a model predicts what it predicts of one visit: what each scan adds, where in it, and a page that shows both."""

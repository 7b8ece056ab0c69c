"""A trained model for programs that are not this one: ONNX, a MONAI bundle, a model card that sites of models show."""

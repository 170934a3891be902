"""How good a quantised model is: accuracy on data, error per operator, equality of runtimes."""

"""The commands of `mervn`: parse, call one function, print."""

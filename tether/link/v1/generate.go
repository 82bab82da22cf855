package tetherv1

//go:generate sh generate.sh

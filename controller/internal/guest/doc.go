// Package guest calls the tethers of containers and says what their answers mean: which class an error has, which exit code and
// words of Docker's a failure has. It is the one place of the controller that tells a tether's refusal from a lost link.
package guest

// Package api serves the Docker Engine API: HTTP and JSON in front of packages container and image, which hold the
// logic. There is one file for each noun; handlers have the form func(w, r) error, and an error becomes Docker's error
// body with the status that its class (package errdefs) stands for.
//
// Wherever the docker command depends on an exact status or sentence, the API has Docker's.
package api

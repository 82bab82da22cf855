// Package conformance compares this engine with Docker's own: the sessions of testdata/*.txt are run by the stock command line against a
// real dockerd and against a whole host of ours, and what each command printed and how it ended is compared, with what cannot be the same
// (identifiers, times, addresses, sizes) taken out. What differs on purpose is in testdata/differences.txt, with its reason; a difference
// that is not there fails the test, and so does one that is there and has gone. The same is done with clients that nobody here wrote.
//
// A session is a text file: "$ command" is compared, "> command" only has to succeed on both sides, "#" begins a comment. Commands are run
// by bash in a directory of the session's own, with `docker` leading to the side's daemon. With CVM_CONFORMANCE_UPDATE=1 the list of
// differences is written anew; what is new in it has no reason, and fails until someone writes one.
package conformance

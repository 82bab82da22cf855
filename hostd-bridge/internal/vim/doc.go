// Package vim serves the vSphere API (vim25, SOAP over HTTPS) of one host.
//
// What is not in the table of methods is refused: nothing is reachable by reflection. Managed objects are immutable
// values of package mo; a change puts a new one in the old one's place and wakes the waiters of the property collector,
// which find what changed by comparing pointers first and values second. So no wait polls, and no lock is held while an
// answer is encoded.
package vim

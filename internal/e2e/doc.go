// Package e2e holds the tests that drive a whole host with real virtual machines through the tools that its users have:
// the stock docker command line, cvm and govc. TestHost and its subtests share one host; tests that break a host have
// one of their own.
package e2e

// Package archtest holds the rules of DESIGN.md, "Layout and who may import whom", as a test.
package archtest

// Package importer checks that the released modules work for those who import
// them. The go.mod of a nested module replaces the root module by the folder
// above, and an importer's build ignores that: it takes the version that go.mod
// requires, and of each module only the files that are in its zip.
//
// There is nothing but tests in it; it is a module of its own so that nobody else
// needs golang.org/x/mod.
package importer

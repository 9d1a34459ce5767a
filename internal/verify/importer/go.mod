module github.com/gaesession/gaesession/internal/verify/importer

go 1.26.0

require (
	github.com/gaesession/gaesession v0.2.0
	golang.org/x/mod v0.43.0
)

replace github.com/gaesession/gaesession => ../../..

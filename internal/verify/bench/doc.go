// Package bench measures what requests cost. There is nothing but benchmarks and
// tests in it. docs/performance.md has the figures.
//
//	go test ./internal/verify/bench -run '^$' -bench . -benchtime 1x
//
// Every benchmark runs with the store of the root package ("ours") and with one
// that makes the calls of icza/gaesession v2 ("blind"), on gaelocal. Calls take
// as long there as the latency model of the design says, unless a benchmark
// measures CPU.
//
// # The CPU budget
//
// A change may take 1.2 times the CPU that its calls take when they are made by
// hand, and a cached read 80 allocations. This command measures both, in rounds
// that alternate between the two sides, and fails when the budget is exceeded:
//
//	go test ./internal/verify/bench -run CPUBudget -v -rounds 20 -cpu 1
//
// Without -rounds only the allocations are checked.
package bench

// This file keeps the fixtures out of the module: kernel paths such as
// "intel-rapl:0" hold characters that a module's files must not have.
module github.com/miotfacts/miotfacts/testdata/devices

go 1.26.0

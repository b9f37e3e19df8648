package judge

import "testing"

func BenchmarkGuard(b *testing.B) {
	in := scene{treated: 1, control: 1, before: 60, stage: 60, seed: 1}.input()
	for b.Loop() {
		Guard(in, Options{})
	}
}

func BenchmarkJudge(b *testing.B) {
	in := scene{treated: 1, control: 1, before: 60, stage: 60, seed: 1}.input()
	for b.Loop() {
		Judge(in, Options{})
	}
}

func BenchmarkJudgeMany(b *testing.B) {
	in := scene{treated: 50, control: 50, before: 60, stage: 60, seed: 1}.input()
	for b.Loop() {
		Judge(in, Options{})
	}
}

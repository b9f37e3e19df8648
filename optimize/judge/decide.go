package judge

// Judge is asked at the end of the dwell.
func Judge(in Input, o Options) Verdict {
	return Verdict{Decision: Hold, Reason: "nothing is judged", At: in.To}
}

// Guard is asked every few seconds in the dwell. It never says pass.
func Guard(in Input, o Options) Verdict {
	return Verdict{Decision: Hold, Reason: "nothing is judged", At: in.To}
}

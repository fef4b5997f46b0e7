package verifier

import (
	"bytes"
	"fmt"
)

// clockSaved is how far in ms a TPM's clock may go back when it stops uncleanly:
// it is kept in NV at least so often (TPM 2.0 part 1, 36.3.2, 2^22 ms).
const clockSaved = 1 << 22

// clockFinding says what a quote's clock and counters mean after those of an
// earlier report; nil when they simply go on. The counters are those of a primary
// key of the endorsement hierarchy, which are not obfuscated.
//
// An unclean stop loses some minutes of the clock and the TPM says so (safe);
// neither the reset count nor more than those minutes can go back by it. What does
// is a TPM that was cleared, replaced, or set back to an older state, whatever it
// says of its clock.
func clockFinding(old, now *Clock) *Finding {
	find := func(code Reason, tier Tier, format string, args ...any) *Finding {
		return &Finding{Code: code, Tier: tier, Text: fmt.Sprintf(format, args...)}
	}
	sameBoot := old.Seed != nil && bytes.Equal(old.Seed, now.Seed)
	lost := int64(old.Clock) - int64(now.Clock)
	switch {
	case now.ResetCount < old.ResetCount:
		return find(ReasonTPMRewind, TierWarning, "the TPM's reset count went back from %d to %d: it was cleared, replaced or set back", old.ResetCount, now.ResetCount)
	case now.ResetCount == old.ResetCount && now.RestartCount < old.RestartCount:
		return find(ReasonTPMRewind, TierWarning, "the TPM's restart count went back from %d to %d: it was set back", old.RestartCount, now.RestartCount)
	case sameBoot && now.ResetCount > old.ResetCount:
		return find(ReasonTPMReset, TierContraindicated, "the TPM was reset %d times while the machine ran on: its PCRs prove nothing", now.ResetCount-old.ResetCount)
	case lost > 0 && now.Safe:
		return find(ReasonTPMRewind, TierWarning, "the TPM's clock went back from %d to %d ms and is called safe: it was cleared, replaced or set back", old.Clock, now.Clock)
	case lost > clockSaved:
		return find(ReasonTPMRewind, TierWarning, "the TPM's clock went back by %d ms, an unclean stop loses at most %d: it was set back", lost, int64(clockSaved))
	case lost > 0 && now.ResetCount == old.ResetCount:
		return find(ReasonTPMRewind, TierWarning, "the TPM's clock went back from %d to %d ms without a reset: it was set back", old.Clock, now.Clock)
	case lost > 0:
		return find(ReasonUnclean, TierNone, "the device stopped uncleanly: its TPM's clock lost %d ms", lost)
	case old.Seed != nil && !sameBoot && now.ResetCount == old.ResetCount:
		return find(ReasonTPMReset, TierWarning, "the machine booted anew and its TPM was not reset: by kexec, or what it says of the boot is false")
	}
	return nil
}

package verifier

// A Reason names why a message was refused or what a finding is about. Reasons
// are part of the interface: pages, logs and other systems match on them.
type Reason string

// Reasons for a refusal, in the order in which they are checked.
const (
	ReasonSize        Reason = "size"              // more bytes than allowed
	ReasonDecode      Reason = "decode"            // not the one encoding of a message
	ReasonUnknown     Reason = "unknown-device"    // never enrolled
	ReasonUnapproved  Reason = "not-approved"      // enrolled, and no operator approved
	ReasonRevoked     Reason = "revoked"           // an operator revoked it
	ReasonRetired     Reason = "decommissioned"    // an operator decommissioned it
	ReasonTopic       Reason = "topic"             // sent under another device's name
	ReasonKey         Reason = "key"               // signed by another key than the device's
	ReasonSignature   Reason = "signature"         // the signature is not valid
	ReasonProtection  Reason = "protection"        // claims another key protection than it enrolled with
	ReasonReplay      Reason = "replay"            // this very report was received before
	ReasonFork        Reason = "fork"              // another report with this sequence, or on another predecessor, is known
	ReasonNonce       Reason = "nonce"             // answers a challenge that was not asked
	ReasonEpoch       Reason = "epoch"             // names an epoch that never was; as a finding: proof of an older epoch than the last one, or of none
	ReasonQuote       Reason = "quote"             // the quote is not valid or not bound to the report
	ReasonNoQuote     Reason = "no-quote"          // a quote was due and did not come
	ReasonManifest    Reason = "manifest"          // names a manifest that the verifier does not have
	ReasonMeasRes     Reason = "measres"           // the comparison does not fit the manifest
	ReasonCredential  Reason = "credential"        // the TPM did not open the credential
	ReasonIdentity    Reason = "identity-changed"  // enrolment under a known UEID with another key
	ReasonCertificate Reason = "ek-certificate"    // the endorsement certificate does not verify
	ReasonCertify     Reason = "key-certification" // the attestation key does not certify the device key
	ReasonFull        Reason = "full"              // too many devices wait for approval
)

// Reasons for a finding in an accepted report.
const (
	ReasonDeviates     Reason = "deviates"      // a rule deviates
	ReasonNotAppraised Reason = "not-appraised" // a rule could not be appraised
	ReasonExtreme      Reason = "extreme"       // a fail-safe extreme is crossed
	ReasonPaused       Reason = "paused"        // the device is paused
	ReasonMaintenance  Reason = "maintenance"   // the device is in maintenance
	ReasonIntegration  Reason = "integration"   // the device is not admitted to operation
	ReasonClaim        Reason = "claim"         // the device's claim is better than its own facts
	ReasonGap          Reason = "gap"           // reports before this one are missing
	ReasonDropped      Reason = "dropped"       // the device says that it dropped reports
	ReasonKeyFile      Reason = "key-file"      // the device key is in a file, not in a TPM
	ReasonNoReference  Reason = "no-reference"  // the device has no valid manifest
	ReasonOldManifest  Reason = "old-manifest"  // the device uses an older manifest than the newest
	ReasonBootState    Reason = "boot-state"    // the quoted PCRs are not among the accepted ones
	ReasonBootUnknown  Reason = "boot-unproved" // the boot state has not been proved by a quote
	ReasonBootValues   Reason = "boot-values"   // a quote came without its PCR values, and they are not those of the one before
	ReasonBootHistory  Reason = "boot-history"  // boot count, boot seed and uptime contradict an earlier report
	ReasonTPMRewind    Reason = "tpm-rewind"    // the TPM's reset count or clock went back
	ReasonTPMReset     Reason = "tpm-reset"     // the TPM was reset and the machine not, or the machine and the TPM not
	ReasonUnclean      Reason = "unclean-stop"  // the device stopped without shutting down; no fault of its own
	ReasonSilent       Reason = "silent"        // nothing has come for longer than the manifest allows
	ReasonNote         Reason = "note"          // a degraded mode the device told of
	ReasonMore         Reason = "more"          // there are more findings than are kept

	// What the logs of the boot show.
	ReasonBootLog       Reason = "boot-log"       // an event log is missing, cannot be read, or does not explain the PCRs
	ReasonBootFirmware  Reason = "boot-firmware"  // the firmware is none of the reference
	ReasonBootSettings  Reason = "boot-settings"  // its settings, boot options or partitions are not
	ReasonBootKeys      Reason = "boot-keys"      // Secure Boot or its keys are not
	ReasonBootLoader    Reason = "boot-loader"    // the boot loader is not
	ReasonBootKernel    Reason = "boot-kernel"    // the kernel is not
	ReasonBootInitrd    Reason = "boot-initrd"    // the initial RAM disk is not
	ReasonBootCmdline   Reason = "boot-cmdline"   // the kernel command line is not
	ReasonBootUserspace Reason = "boot-userspace" // what userspace measured is not
	ReasonBootEvent     Reason = "boot-event"     // another event is in no version of the reference
	ReasonFile          Reason = "file"           // a file that nobody allowed or signed was executed or read
	ReasonFileViolation Reason = "file-violation" // a file was written while it was measured
	ReasonFileList      Reason = "file-list"      // the IMA list is missing, cannot be read, or does not lead to the quoted PCR
	ReasonFileTPM       Reason = "file-tpm"       // IMA started without the TPM: nothing proves its list

	// What the label says, held against manifest and facts. None is more than a
	// warning.
	ReasonLabelMissing   Reason = "label-missing"   // no label of the model is here
	ReasonLabelRefused   Reason = "label-refused"   // the one that is here was altered, or signed by a key that may not
	ReasonLabelRevoked   Reason = "label-revoked"   // its key was revoked
	ReasonLabelExpired   Reason = "label-expired"   // its validity has ended, or not begun
	ReasonLabelRadio     Reason = "label-radio"     // a wireless interface that it does not declare
	ReasonLabelBluetooth Reason = "label-bluetooth" // a Bluetooth adapter that it does not declare
	ReasonLabelNetwork   Reason = "label-network"   // addresses, though it declares no connection
	ReasonLabelCloud     Reason = "label-cloud"     // peers in the Internet, though it declares local connections only
	ReasonLabelService   Reason = "label-service"   // a listening socket that neither label nor manifest declares
	ReasonLabelRange     Reason = "label-range"     // its runtime facts are not those of the manifest
	ReasonLabelBoot      Reason = "label-boot"      // the boot should be proved by a TPM, and the key is in a file
	ReasonLabelProtected Reason = "label-protected" // its boot is not protected with what it says
	ReasonLabelSBOM      Reason = "label-sbom"      // the bill of materials is another file, or of another version than booted
	ReasonLabelUpdates   Reason = "label-updates"   // updates come less often than it promises
	ReasonLabelSupport   Reason = "label-support"   // support or life has ended
	ReasonLabelParts     Reason = "label-parts"     // sensors and actuators; never appraised so far
	ReasonLabelOpen      Reason = "label-open"      // what of it was not appraised
	ReasonInspection     Reason = "inspection-due"  // the best-before-inspection day has come
)

package maturity

// Levels names the levels (section IV-B), level 1 at index 0.
func Levels() [MaxLevel]Text {
	return [MaxLevel]Text{
		{"beginnings", "Anfänge"},
		{"first steps", "erste Schritte"},
		{"on the way", "auf dem Weg"},
		{"developed organisation", "entwickelte Organisation"},
		{"mature organisation", "reife Organisation"},
	}
}

// Efforts says what the efforts 1 to 5 mean, effort 1 at index 0.
func Efforts() [5]Text {
	return [5]Text{
		{"a decision or a setting, days", "eine Entscheidung oder Einstellung, Tage"},
		{"documents, contracts or a course, weeks", "Unterlagen, Verträge oder eine Schulung, Wochen"},
		{"a project of the facility or its suppliers, months", "ein Projekt der Einrichtung oder ihrer Lieferanten, Monate"},
		{"other software or a programme for the whole facility, a year", "andere Software oder ein Vorhaben der ganzen Einrichtung, ein Jahr"},
		{"other hardware or other devices, a procurement cycle", "andere Hardware oder andere Geräte, ein Beschaffungszyklus"},
	}
}

var columns = []Column{
	{"organisation", Structure, "II", Text{"Organisation", "Organisation"}},
	{"data", Structure, "II", Text{"Data management", "Datenverwaltung"}},
	{"authentication", Structure, "II", Text{"Authentication system", "Authentisierung"}},
	{"updates", Process, "III", Text{"Updates", "Aktualisierungen"}},
	{"malfunction", Process, "III", Text{"Malfunction management", "Umgang mit Störungen"}},
	{"usability", Process, "III", Text{"Usability", "Benutzbarkeit"}},
	{"costs", Outcome, "IV", Text{"Costs for IT security", "Kosten der IT-Sicherheit"}},
	{"downtime", Outcome, "IV", Text{"Downtime regarding criticality", "Ausfallzeit nach Kritikalität"}},
	{"failsafe", Outcome, "IV", Text{"Fail-safe", "Ausfallsicherheit"}},
	{"threats", Outcome, "IV", Text{"Threats and attacks", "Bedrohungen und Angriffe"}},
}

// The reasons that many efforts share.
var (
	byManagement = Text{"management decides it", "die Leitung entscheidet es"}
	byContract   = Text{"it is asked for in contracts and shown in documents", "es wird vertraglich gefordert und mit Unterlagen belegt"}
	bySetting    = Text{"a setting of devices in use", "eine Einstellung an vorhandenen Geräten"}
	byCourse     = Text{"courses and time for the staff", "Schulungen und Zeit für das Personal"}
	bySupplier   = Text{"suppliers have to change their software", "Lieferanten müssen ihre Software ändern"}
	byHardware   = Text{"devices need other hardware", "Geräte brauchen andere Hardware"}
	byLogs       = Text{"logs have to be switched on and brought together", "Protokolle sind einzuschalten und zusammenzuführen"}
	bySpares     = Text{"spare devices and agreed times of repair", "Ersatzgeräte und vereinbarte Reparaturzeiten"}
	byDefence    = Text{"fewer events take better defence of the whole network", "weniger Ereignisse brauchen besseren Schutz des ganzen Netzes"}
	byBudget     = Text{"the budget has to be found", "die Mittel müssen gefunden werden"}
	byDesign     = Text{"devices and their surroundings need redundancy by design", "Geräte und Umgebung brauchen Redundanz von Grund auf"}
)

var criteria = []Criterion{
	{"structure.organisation.1.commitment", "organisation", 1, Text{"The management commits itself to IT security for all IoT devices everywhere in the facility", "Die Leitung verpflichtet sich auf IT-Sicherheit für alle IoT-Geräte in der ganzen Einrichtung"}, 1, byManagement, ""},
	{"structure.organisation.2.objectives", "organisation", 2, Text{"Basic objectives, scope, roles and tasks for the IT security of medical IoT devices are defined", "Grundlegende Ziele, Geltungsbereich, Rollen und Aufgaben der IT-Sicherheit medizinischer IoT-Geräte sind festgelegt"}, 2, Text{"written down once and agreed", "einmal aufzuschreiben und abzustimmen"}, ""},
	{"structure.organisation.2.supplier_contracts", "organisation", 2, Text{"Contracts with suppliers of medical IoT have clauses about IT security", "Verträge mit Lieferanten medizinischer IoT-Geräte enthalten Klauseln zur IT-Sicherheit"}, 2, byContract, ""},
	{"structure.organisation.3.processes", "organisation", 3, Text{"All processes with medical IoT are defined, with their risk level", "Alle Abläufe mit medizinischem IoT sind mit ihrer Risikostufe festgelegt"}, 3, Text{"every ward's processes have to be looked at", "die Abläufe jeder Station sind aufzunehmen"}, ""},
	{"structure.organisation.3.device_identifier", "organisation", 3, Text{"Every product has a unique, tamper-resistant device identifier, such as a chip's serial number", "Jedes Produkt hat eine eindeutige, gegen Manipulation geschützte Kennung, etwa die Seriennummer eines Chips"}, 5, byHardware, ""},
	{"structure.organisation.4.staff_training", "organisation", 4, Text{"Medical staff is trained in the IT security of IoT devices", "Medizinisches Personal ist in der IT-Sicherheit von IoT-Geräten geschult"}, 2, byCourse, ""},
	{"structure.organisation.4.minimal_services", "organisation", 4, Text{"Operating system services that are not essential are removed from the products' software", "Nicht notwendige Dienste des Betriebssystems sind aus der Software der Produkte entfernt"}, 4, bySupplier, ""},
	{"structure.organisation.5.vulnerability_handling", "organisation", 5, Text{"Manufacturers handle vulnerability reports with regard to ISO 30111", "Hersteller behandeln Schwachstellenmeldungen mit Blick auf ISO 30111"}, 3, byContract, ""},

	{"structure.data.1.security_description", "data", 1, Text{"End-to-end security and the cryptographic principles are described in detail", "Ende-zu-Ende-Sicherheit und kryptographische Grundsätze sind ausführlich beschrieben"}, 2, byContract, ""},
	{"structure.data.1.crypto_coprocessor", "data", 1, Text{"Cryptographic coprocessors create and store keys", "Kryptographische Koprozessoren erzeugen und bewahren Schlüssel"}, 5, byHardware, ""},
	{"structure.data.1.http_trace", "data", 1, Text{"HTTP trace methods are disabled in all products with a web server", "HTTP-Trace-Methoden sind in allen Produkten mit Webserver abgeschaltet"}, 1, bySetting, ""},
	{"structure.data.2.application_encryption", "data", 2, Text{"Data is encrypted on the application layer", "Daten sind auf der Anwendungsschicht verschlüsselt"}, 4, bySupplier, ""},
	{"structure.data.2.key_storage", "data", 2, Text{"All keys for communication are stored by industry standards such as FIPS 140", "Alle Schlüssel für Kommunikation sind nach Industriestandards wie FIPS 140 gespeichert"}, 5, byHardware, ""},
	{"structure.data.2.ports", "data", 2, Text{"All ports, such as USB or RS-232, talk only to authorised and authenticated parties", "Alle Anschlüsse, etwa USB oder RS-232, sprechen nur mit berechtigten, authentisierten Gegenstellen"}, 4, bySupplier, ""},
	{"structure.data.2.minimal_sharing", "data", 2, Text{"Resources are shared as little as possible", "Betriebsmittel werden so wenig wie möglich geteilt"}, 3, Text{"networks and accounts have to be separated", "Netze und Konten sind zu trennen"}, ""},
	{"structure.data.3.key_management", "data", 3, Text{"Keys are managed: generation, distribution, storage and maintenance", "Schlüssel werden verwaltet: Erzeugung, Verteilung, Aufbewahrung und Pflege"}, 3, Text{"roles, tools and a procedure for all keys", "Rollen, Werkzeuge und ein Verfahren für alle Schlüssel"}, ""},
	{"structure.data.3.tpm", "data", 3, Text{"Trusted platform modules and hardware security modules are used", "Trusted Platform Modules und Hardware-Sicherheitsmodule werden genutzt"}, 5, byHardware, ""},
	{"structure.data.3.protocol_versions", "data", 3, Text{"Communication protocols have their most secure version, such as Bluetooth 4.2 rather than 4.0", "Kommunikationsprotokolle haben ihre sicherste Version, etwa Bluetooth 4.2 statt 4.0"}, 3, Text{"settings where devices allow it, updates where they do not", "Einstellungen, wo Geräte es erlauben, sonst Aktualisierungen"}, ""},
	{"structure.data.4.hardware_storage", "data", 4, Text{"Sensitive data is stored in hardware, not in software", "Sensible Daten liegen in Hardware, nicht in Software"}, 5, byHardware, ""},
	{"structure.data.4.secure_boot", "data", 4, Text{"Only secure boot methods are used", "Es werden nur sichere Startverfahren genutzt"}, 4, Text{"signed software from the supplier, and a change on every device", "signierte Software vom Lieferanten und eine Änderung an jedem Gerät"}, ""},
	{"structure.data.5.locked_key_module", "data", 5, Text{"Data parameters are encrypted with a direct access recovery (DAR) key kept in a physically locked module", "Datenparameter sind mit einem Direct-Access-Recovery-Schlüssel (DAR) aus einem physisch verschlossenen Modul verschlüsselt"}, 5, byHardware, ""},
	{"structure.data.5.root_of_trust", "data", 5, Text{"A root of trust is used: certificates and signing keys", "Ein Vertrauensanker wird genutzt: Zertifikate und Signaturschlüssel"}, 4, Text{"an authority, its keys and software that checks them", "eine Zertifizierungsstelle, ihre Schlüssel und Software, die sie prüft"}, ""},

	{"structure.authentication.1.no_default_credentials", "authentication", 1, Text{"Medical IoT devices have no default credentials", "Medizinische IoT-Geräte haben keine voreingestellten Zugangsdaten"}, 1, bySetting, ""},
	{"structure.authentication.1.no_guest_functions", "authentication", 1, Text{"Unauthorised and guest users, patients included, can use no function, changing credentials included", "Unberechtigte und Gäste, auch Patienten, können keine Funktion nutzen, auch keine Zugangsdaten ändern"}, 2, Text{"rights of every device have to be reviewed", "die Rechte an jedem Gerät sind zu prüfen"}, ""},
	{"structure.authentication.1.least_privilege", "authentication", 1, Text{"Applications run with the lowest privileges possible", "Anwendungen laufen mit den geringstmöglichen Rechten"}, 4, bySupplier, ""},
	{"structure.authentication.2.separate_secrets", "authentication", 2, Text{"Each medical IoT device or product family has secret keys of its own", "Jedes medizinische IoT-Gerät oder jede Produktfamilie hat eigene geheime Schlüssel"}, 3, Text{"keys of devices in use have to be replaced", "Schlüssel vorhandener Geräte sind zu ersetzen"}, ""},
	{"structure.authentication.2.password_rules", "authentication", 2, Text{"All medical IoT devices enforce complex passwords: no blanks, no account name in them, and the like", "Alle medizinischen IoT-Geräte verlangen komplexe Passwörter: keine Leerzeichen, nicht der Kontoname und dergleichen"}, 2, bySetting, ""},
	{"structure.authentication.3.no_hard_coded_passwords", "authentication", 3, Text{"The code of IoT software has no hard-coded passwords", "Der Code der IoT-Software enthält keine fest eingebauten Passwörter"}, 4, bySupplier, ""},
	{"structure.authentication.3.two_factor", "authentication", 3, Text{"All medical IoT devices have two-factor authentication", "Alle medizinischen IoT-Geräte haben Zwei-Faktor-Authentisierung"}, 4, bySupplier, ""},
	{"structure.authentication.4.multi_factor", "authentication", 4, Text{"All medical IoT devices have multi-factor authentication or certificates", "Alle medizinischen IoT-Geräte haben Mehr-Faktor-Authentisierung oder Zertifikate"}, 4, bySupplier, ""},
	{"structure.authentication.4.credential_renewal", "authentication", 4, Text{"All medical staff renews credentials by a secure mechanism at fixed intervals", "Das gesamte medizinische Personal erneuert Zugangsdaten in festen Abständen über ein sicheres Verfahren"}, 3, Text{"one directory of users that devices ask", "ein Benutzerverzeichnis, das die Geräte fragen"}, ""},
	{"structure.authentication.5.no_secrets_in_code", "authentication", 5, Text{"No secret credentials are left in application code of medical IoT devices", "Im Anwendungscode medizinischer IoT-Geräte sind keine geheimen Zugangsdaten verblieben"}, 4, bySupplier, ""},
	{"structure.authentication.5.biometric", "authentication", 5, Text{"All medical staff authenticates by biometrics", "Das gesamte medizinische Personal authentisiert sich biometrisch"}, 5, byHardware, ""},

	{"process.updates.1.regular", "updates", 1, Text{"Security measures of all medical IoT devices are updated regularly", "Sicherheitsmaßnahmen aller medizinischen IoT-Geräte werden regelmäßig aktualisiert"}, 3, Text{"times of maintenance, agreed with wards and suppliers", "Wartungszeiten, mit Stationen und Lieferanten vereinbart"}, ""},
	{"process.updates.1.notification", "updates", 1, Text{"Users are told when an update changes preferences, security or privacy settings they have made", "Benutzer erfahren, wenn eine Aktualisierung ihre Einstellungen, auch zu Sicherheit und Datenschutz, ändert"}, 2, byContract, ""},
	{"process.updates.2.prompt_response", "updates", 2, Text{"New security flaws and other flaws of the facility's IT are answered promptly and with agility", "Auf neue Sicherheits- und andere Mängel der IT der Einrichtung wird rasch und beweglich reagiert"}, 3, Text{"somebody on duty, with a procedure and rights", "jemand in Bereitschaft, mit Verfahren und Rechten"}, ""},
	{"process.updates.2.validation", "updates", 2, Text{"Authenticity and integrity of all updates are validated, for example by a signing certificate", "Echtheit und Unversehrtheit aller Aktualisierungen werden geprüft, etwa mit einem Signaturzertifikat"}, 4, bySupplier, ""},
	{"process.updates.2.restore", "updates", 2, Text{"A secure state is restored when an update did not succeed", "Ein sicherer Zustand wird wiederhergestellt, wenn eine Aktualisierung misslang"}, 4, bySupplier, ""},
	{"process.updates.3.automated", "updates", 3, Text{"The update process of all medical IoT devices is automated", "Der Aktualisierungsprozess aller medizinischen IoT-Geräte läuft automatisch"}, 4, bySupplier, ""},
	{"process.updates.3.maintained_libraries", "updates", 3, Text{"Libraries in use are actively maintained and supported", "Genutzte Bibliotheken werden aktiv gepflegt und unterstützt"}, 3, byContract, ""},
	{"process.updates.4.limitation", "updates", 4, Text{"How far each medical IoT device's functions, such as remote control, are limited after its security support is defined", "Für alle medizinischen IoT-Geräte ist festgelegt, welche Funktionen (etwa Fernsteuerung) nach Ende der Sicherheitsunterstützung entfallen"}, 3, Text{"a rule per device model, and its technical means", "eine Regel je Gerätemodell und ihre technischen Mittel"}, ""},
	{"process.updates.4.compatibility", "updates", 4, Text{"Updates of all medical IoT devices are compatible with previous versions", "Aktualisierungen aller medizinischen IoT-Geräte sind mit früheren Versionen verträglich"}, 4, bySupplier, ""},
	{"process.updates.5.cryptographic_checks", "updates", 5, Text{"Updates include cryptographic checks and cipher suites", "Aktualisierungen umfassen kryptographische Prüfungen und Cipher-Suites"}, 4, bySupplier, ""},
	{"process.updates.5.end_of_life", "updates", 5, Text{"All medical IoT devices have a complete update strategy to their end of life, aware of the risks beyond the expected expiry date", "Alle medizinischen IoT-Geräte haben eine vollständige Aktualisierungsstrategie bis zum Lebensende, die Risiken nach dem erwarteten Ablaufdatum kennt"}, 3, byContract, ""},

	{"process.malfunction.1.error_handlers", "malfunction", 1, Text{"The use of error handlers is defined", "Der Einsatz von Fehlerbehandlungen ist festgelegt"}, 2, byContract, ""},
	{"process.malfunction.1.generic_messages", "malfunction", 1, Text{"Error messages are generic and error pages custom", "Fehlermeldungen sind allgemein gehalten, Fehlerseiten eigens gestaltet"}, 3, bySupplier, ""},
	{"process.malfunction.1.secure_state", "malfunction", 1, Text{"A secure state can be restored after a security breach", "Nach einer Sicherheitsverletzung lässt sich ein sicherer Zustand wiederherstellen"}, 3, Text{"images to restore from, and practice", "Abbilder zum Wiederherstellen und Übung"}, ""},
	{"process.malfunction.1.runtime_protection", "malfunction", 1, Text{"There is a runtime protection mechanism", "Es gibt einen Schutz zur Laufzeit"}, 3, Text{"software on each device that watches it", "Software auf jedem Gerät, die es überwacht"}, ""},
	{"process.malfunction.2.log_authentication", "malfunction", 2, Text{"All attempts and failures of medical staff to authenticate are logged", "Alle Anmeldeversuche und Fehlanmeldungen des medizinischen Personals werden protokolliert"}, 2, byLogs, ""},
	{"process.malfunction.2.log_access_control", "malfunction", 2, Text{"All access control failures of medical staff are logged", "Alle Verstöße des medizinischen Personals gegen Zugriffsrechte werden protokolliert"}, 2, byLogs, ""},
	{"process.malfunction.2.log_tampering", "malfunction", 2, Text{"All apparent tampering events are logged", "Alle erkennbaren Manipulationen werden protokolliert"}, 3, byLogs, ""},
	{"process.malfunction.3.bug_reporting", "malfunction", 3, Text{"Suppliers of medical IoT have a defined system for reporting bugs", "Lieferanten medizinischer IoT-Geräte haben ein festgelegtes Meldesystem für Fehler"}, 2, byContract, ""},
	{"process.malfunction.3.log_tls", "malfunction", 3, Text{"All failures of TLS connections to the back end are logged", "Alle fehlgeschlagenen TLS-Verbindungen zum Backend werden protokolliert"}, 2, byLogs, ""},
	{"process.malfunction.3.tamper_alerts", "malfunction", 3, Text{"Tampering events raise an alert automatically", "Manipulationen lösen automatisch einen Alarm aus"}, 3, Text{"alarms have to reach somebody at any hour", "Alarme müssen zu jeder Stunde jemanden erreichen"}, ""},
	{"process.malfunction.4.self_repair", "malfunction", 4, Text{"All medical IoT devices have mechanisms for self-diagnosis and self-repair", "Alle medizinischen IoT-Geräte haben Verfahren zur Selbstdiagnose und Selbstreparatur"}, 5, byHardware, ""},
	{"process.malfunction.5.information_sharing", "malfunction", 5, Text{"The facility takes part in a platform that shares vulnerabilities and current threats of medical IoT devices", "Die Einrichtung beteiligt sich an einer Plattform zum Austausch über Schwachstellen und aktuelle Bedrohungen medizinischer IoT-Geräte"}, 1, byManagement, ""},

	{"process.usability.1.basic_training", "usability", 1, Text{"Medical staff has had basic training", "Medizinisches Personal hat eine Grundschulung"}, 2, byCourse, ""},
	{"process.usability.2.advanced_training", "usability", 2, Text{"Staff has had advanced training", "Personal hat eine weiterführende Schulung"}, 2, byCourse, ""},
	{"process.usability.3.regular_training", "usability", 3, Text{"Medical staff is trained regularly, on innovations too", "Medizinisches Personal wird regelmäßig geschult, auch zu Neuerungen"}, 3, byCourse, ""},
	{"process.usability.4.trained_usage", "usability", 4, Text{"Usage needs no training, or all medical staff is trained for it", "Die Nutzung braucht keine Schulung, oder das gesamte medizinische Personal ist darin geschult"}, 4, byCourse, ""},
	{"process.usability.5.trained_security", "usability", 5, Text{"Usage needs no training, or all medical staff is trained for it and for handling IT security", "Die Nutzung braucht keine Schulung, oder das gesamte medizinische Personal ist darin und im Umgang mit IT-Sicherheit geschult"}, 4, byCourse, "process.usability.4.trained_usage"},

	{"outcome.costs.1.budget", "costs", 1, Text{"IT security has less than 1 % of the facility's whole budget", "Die IT-Sicherheit hat weniger als 1 % des Gesamtbudgets der Einrichtung"}, 1, byBudget, ""},
	{"outcome.costs.2.budget", "costs", 2, Text{"IT security has less than 2 % of the facility's whole budget", "Die IT-Sicherheit hat weniger als 2 % des Gesamtbudgets der Einrichtung"}, 2, byBudget, "outcome.costs.1.budget"},
	{"outcome.costs.3.budget", "costs", 3, Text{"IT security has less than 4 % of the facility's whole budget", "Die IT-Sicherheit hat weniger als 4 % des Gesamtbudgets der Einrichtung"}, 3, byBudget, "outcome.costs.2.budget"},
	{"outcome.costs.4.budget", "costs", 4, Text{"IT security has less than 6 % of the facility's whole budget", "Die IT-Sicherheit hat weniger als 6 % des Gesamtbudgets der Einrichtung"}, 4, byBudget, "outcome.costs.3.budget"},
	{"outcome.costs.5.budget", "costs", 5, Text{"IT security has more than 8 % of the facility's whole budget", "Die IT-Sicherheit hat mehr als 8 % des Gesamtbudgets der Einrichtung"}, 5, byBudget, "outcome.costs.4.budget"},

	{"outcome.downtime.1.low_3_days", "downtime", 1, Text{"Devices of low criticality are down for 3 days at most", "Geräte geringer Kritikalität fallen höchstens 3 Tage aus"}, 2, bySpares, ""},
	{"outcome.downtime.2.low_24_hours", "downtime", 2, Text{"Devices of low criticality are down for 24 hours at most", "Geräte geringer Kritikalität fallen höchstens 24 Stunden aus"}, 3, bySpares, "outcome.downtime.1.low_3_days"},
	{"outcome.downtime.3.medium_3_days", "downtime", 3, Text{"Devices of medium criticality are down for 3 days at most", "Geräte mittlerer Kritikalität fallen höchstens 3 Tage aus"}, 2, bySpares, ""},
	{"outcome.downtime.4.medium_24_hours", "downtime", 4, Text{"Devices of medium criticality are down for 24 hours at most", "Geräte mittlerer Kritikalität fallen höchstens 24 Stunden aus"}, 3, bySpares, "outcome.downtime.3.medium_3_days"},
	{"outcome.downtime.5.high_24_hours", "downtime", 5, Text{"Devices of high criticality are down for 24 hours at most", "Geräte hoher Kritikalität fallen höchstens 24 Stunden aus"}, 4, bySpares, ""},

	{"outcome.failsafe.1.whole", "failsafe", 1, Text{"A failure affects the whole system, device or product family", "Ein Ausfall betrifft das ganze System, Gerät oder die ganze Produktfamilie"}, 1, Text{"nothing has to be done for it", "dafür ist nichts zu tun"}, ""},
	{"outcome.failsafe.2.parts", "failsafe", 2, Text{"A failure affects parts of the system, device or product family", "Ein Ausfall betrifft Teile des Systems, Geräts oder der Produktfamilie"}, 3, Text{"systems have to be separated", "Systeme sind zu trennen"}, "outcome.failsafe.1.whole"},
	{"outcome.failsafe.3.availability", "failsafe", 3, Text{"A failure affects the availability of operation or use of the system, device or product family", "Ein Ausfall betrifft die Verfügbarkeit von Betrieb oder Nutzung des Systems, Geräts oder der Produktfamilie"}, 4, byDesign, "outcome.failsafe.2.parts"},
	{"outcome.failsafe.4.no_harm", "failsafe", 4, Text{"A failure has no effect on medical operation; nobody can be harmed", "Ein Ausfall wirkt sich nicht auf den medizinischen Betrieb aus; niemand kann zu Schaden kommen"}, 5, byDesign, "outcome.failsafe.3.availability"},
	{"outcome.failsafe.5.no_effect", "failsafe", 5, Text{"A failure has no effect on operation or use of the whole system, device or product family", "Ein Ausfall wirkt sich nicht auf Betrieb oder Nutzung des ganzen Systems, Geräts oder der Produktfamilie aus"}, 5, byDesign, "outcome.failsafe.4.no_harm"},

	{"outcome.threats.1.below_25", "threats", 1, Text{"Fewer than 25 security-related events in the facility last year", "Weniger als 25 sicherheitsrelevante Ereignisse in der Einrichtung im letzten Jahr"}, 2, byDefence, ""},
	{"outcome.threats.2.below_20", "threats", 2, Text{"Fewer than 20 security-related events in the facility last year", "Weniger als 20 sicherheitsrelevante Ereignisse in der Einrichtung im letzten Jahr"}, 3, byDefence, "outcome.threats.1.below_25"},
	{"outcome.threats.3.below_15", "threats", 3, Text{"Fewer than 15 security-related events in the facility last year", "Weniger als 15 sicherheitsrelevante Ereignisse in der Einrichtung im letzten Jahr"}, 3, byDefence, "outcome.threats.2.below_20"},
	{"outcome.threats.4.below_10", "threats", 4, Text{"Fewer than 10 security-related events in the facility last year", "Weniger als 10 sicherheitsrelevante Ereignisse in der Einrichtung im letzten Jahr"}, 4, byDefence, "outcome.threats.3.below_15"},
	{"outcome.threats.5.below_5", "threats", 5, Text{"Fewer than 5 security-related events in the facility last year", "Weniger als 5 sicherheitsrelevante Ereignisse in der Einrichtung im letzten Jahr"}, 5, byDefence, "outcome.threats.4.below_10"},
}

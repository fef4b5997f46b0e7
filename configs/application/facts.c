/* Hands facts in to factsd: facts SOCKET NAME NUMBER [NAME NUMBER]...
 * Names and ranges are those of [[app]] in the manifest; a number that was not
 * handed in for 10 s is stale. cc -std=c99 -Wall -o facts facts.c */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int main(int argc, char **argv)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	char text[2048]; /* what one datagram may hold */
	size_t n = 0;

	if (argc < 4 || argc % 2 != 0 || strlen(argv[1]) >= sizeof to.sun_path) {
		fprintf(stderr, "usage: facts SOCKET NAME NUMBER [NAME NUMBER]...\n");
		return 2;
	}
	strcpy(to.sun_path, argv[1]);
	for (int i = 2; i < argc; i += 2) {
		n += snprintf(text + n, sizeof text - n, "%s %s\n", argv[i], argv[i + 1]);
		if (n >= sizeof text) {
			fprintf(stderr, "facts: more than one datagram holds\n");
			return 2;
		}
	}
	int s = socket(AF_UNIX, SOCK_DGRAM, 0);
	if (s < 0 || sendto(s, text, n, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to) != (ssize_t)n) {
		perror("facts"); /* factsd is not there: go on, and try again later */
		return 1;
	}
	return 0;
}

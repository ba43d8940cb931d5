/* ctls_tls: TLS 1.2 and 1.3 on a non-blocking socket, by OpenSSL.
 *
 * Why this shape: OpenSSL reads and writes the socket itself, so that it can hand the sending of records to the kernel
 * where the kernel knows TLS. Whoever calls waits for the socket to be ready and calls again; nothing here waits or calls
 * back.
 *
 * A context is what many connections share: certificates, whom to trust, the keys of tickets. A session is one connection.
 * Invariants: a context outlives its sessions; one thread at a time uses a context and its sessions; PEM bytes are the
 * caller's and are not kept.
 */
#ifndef CTLS_TLS_H
#define CTLS_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Overwrites secret bytes in a way that the compiler does not leave out. */
void ctls_wipe(void *bytes, size_t length);

/* Lets the library read its files and take its memory and randomness now, before files are out of reach. */
void ctls_tls_prepare(void);

/* ---- Contexts ---------------------------------------------------------------------------------------------------- */

typedef struct ctls_context ctls_context;

/* What was wrong with what a context was given, for people. */
enum ctls_part {
    CTLS_PART_LIBRARY = 0, /* OpenSSL itself, or no memory */
    CTLS_PART_CERTIFICATE = 1,
    CTLS_PART_KEY = 2,
    CTLS_PART_AUTHORITIES = 3,
};
#define CTLS_TEXT_BYTES 256
struct ctls_fault {
    uint32_t part; /* enum ctls_part */
    char text[CTLS_TEXT_BYTES];
};

/* A context for servers or for clients that trusts nobody and has no certificate. NULL: `fault` says why. */
ctls_context *ctls_context_create(bool is_server, struct ctls_fault *fault);
void ctls_context_free(ctls_context *context);

/* Adds a certificate (PEM, its chain behind it) and its private key (PEM, without a passphrase). The first one of a server
 * is for clients that name no host, or one that no certificate has; a client has at most one. */
bool ctls_context_add(ctls_context *context, const uint8_t *certificate, size_t certificate_length, const uint8_t *key,
                      size_t key_length, struct ctls_fault *fault);

/* Trusts the certificates (PEM) and, through them, what they signed. For a server: from now on its clients must have one
 * that they signed. */
bool ctls_context_trust(ctls_context *context, const uint8_t *authorities, size_t length, struct ctls_fault *fault);
/* Where systems keep the certificates of public authorities in one file, the likeliest first; NULL behind the last. */
const char *ctls_system_bundle(size_t index);
/* Trusts what the system does (clients only). */
bool ctls_context_trust_system(ctls_context *context, struct ctls_fault *fault);
/* Clients only: takes any certificate of any name. */
void ctls_context_trust_everyone(ctls_context *context);

/* Speaks TLS 1.2 and nothing newer from now on. */
bool ctls_context_limit_to_1_2(ctls_context *context);

/* Sessions are resumed only by servers with the same 32 bytes here. */
#define CTLS_IDENTITY_BYTES 32
void ctls_context_identity(ctls_context *context, const uint8_t *identity);

/* The keys of a server's tickets: the first one makes new ones, the others still open old ones. None: no tickets. */
#define CTLS_TICKET_KEY_BYTES 80
#define CTLS_TICKET_KEYS_MAX 4
void ctls_context_ticket_keys(ctls_context *context, const uint8_t *keys, size_t count);

/* ---- Sessions ---------------------------------------------------------------------------------------------------- */

typedef struct ctls_session ctls_session;

/* What a call came to when it is below 0. */
enum ctls_result {
    CTLS_WANTS_READ = -1,  /* call again when the socket is readable */
    CTLS_WANTS_WRITE = -2, /* call again, with at least the same bytes, when it is writable */
    CTLS_ENDED = -3,       /* the peer said that nothing more comes (close_notify) */
    CTLS_TRUNCATED = -4,   /* the peer's bytes ended without its having said so */
    CTLS_RESET = -5,       /* the connection was reset */
    CTLS_FAILED = -6,      /* the session is broken: ctls_session_text says why */
    CTLS_PLAIN_HTTP = -7,  /* the same: the client speaks HTTP without TLS */
};

/* A session over a connected socket, which stays the caller's. `name` (clients, may be NULL): the server's host name, or its
 * address as text; it is told to the server, and the server's certificate must be for it unless everyone is trusted.
 * `early`: bytes that were read from the socket before. NULL: no memory. */
ctls_session *ctls_session_create(ctls_context *context, int descriptor, const char *name, const uint8_t *early,
                                  size_t early_length);
void ctls_session_free(ctls_session *session);

/* Goes on with the handshake: 0 when it is done, or enum ctls_result. */
int ctls_session_handshake(ctls_session *session);
/* Reads up to `length` bytes: how many (more than 0), or enum ctls_result. */
long ctls_session_read(ctls_session *session, uint8_t *bytes, size_t length);
/* Writes a part of the bytes, a record at most: how many (more than 0), or enum ctls_result. */
long ctls_session_write(ctls_session *session, const uint8_t *bytes, size_t length);
/* Tells the peer that nothing more comes: 0, or enum ctls_result. Reading goes on. */
int ctls_session_finish(ctls_session *session);

/* Whether bytes wait inside the session, of which the socket says nothing. */
bool ctls_session_has_waiting(const ctls_session *session);
/* Why it is broken; "" when it is not. */
const char *ctls_session_text(const ctls_session *session);
/* What was agreed upon: "TLSv1.3", the cipher's name, and the protocol (ALPN) or "". */
const char *ctls_session_version(const ctls_session *session);
const char *ctls_session_cipher(const ctls_session *session);
void ctls_session_protocol(const ctls_session *session, const uint8_t **name, unsigned *length);
/* The host that the client asked for; NULL: none. */
const char *ctls_session_host(const ctls_session *session);
bool ctls_session_is_resumed(const ctls_session *session);
/* Whether the kernel makes the records that are sent. */
bool ctls_session_sends_in_kernel(const ctls_session *session);

/* ---- Certificates, for people ---------------------------------------------------------------------------------------- */

/* What a certificate says about itself; texts are cut to fit, without control characters. */
struct ctls_certificate {
    char subject[CTLS_TEXT_BYTES];
    char issuer[CTLS_TEXT_BYTES];
    char names[2 * CTLS_TEXT_BYTES]; /* host names and addresses, with commas between them */
    int64_t not_before, not_after;   /* seconds since 1970 */
};

/* Reads the certificates of a PEM file, `max` at most: how many were read. */
size_t ctls_certificates_read(const uint8_t *pem, size_t length, struct ctls_certificate *list, size_t max);
/* Those that the server sent to this client, its own first, whether they were found good or not. */
size_t ctls_session_chain(const ctls_session *session, struct ctls_certificate *list, size_t max);

#endif

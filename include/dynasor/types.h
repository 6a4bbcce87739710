/* dynasor/types.h — numbers that the client API, the wire and the daemon share.
 *
 * Everything here is part of the ABI: values are never renumbered, only appended. */
#pragma once
#include <stdint.h>

/* Status codes. API functions return 0 or the negative of one of these; events and wire records
 * carry them as positive numbers. dynasor_status_name() gives the text of each. */
enum dynasor_status {
    DYNASOR_OK = 0,
    DYNASOR_E_INVALID = 1,      /* a field is out of range; the message names field and range */
    DYNASOR_E_TIMEOUT = 2,      /* nothing happened within timeout_ns */
    DYNASOR_E_AGAIN = 3,        /* ring, table or arena is full: take events, release, try again */
    DYNASOR_E_RESTARTING = 4,   /* the daemon is away; the library resumes: call again */
    DYNASOR_E_LIMIT = 5,        /* the daemon is at its limit of clients or descriptors */
    DYNASOR_E_QUOTA = 6,        /* the quota of the caller's uid is used up */
    DYNASOR_E_VERSION = 7,      /* no ABI version, or a required feature, in common */
    DYNASOR_E_UNTRUSTED = 8,    /* the socket is served by an unexpected uid */
    DYNASOR_E_PROTOCOL = 9,     /* the daemon ended the session: protocol violation */
    DYNASOR_E_SYSTEM = 10,      /* a system call failed; the message names it and errno */
    DYNASOR_E_NOTFOUND = 11,    /* no such program */
    DYNASOR_E_CLOSED = 12,      /* the handle is closed, or was inherited over fork() */
    DYNASOR_E_UNSUPPORTED = 13, /* this daemon does not offer the algorithm or option */
    DYNASOR_E_NOMEM = 14,       /* out of memory (connect and lane_open only) */
    DYNASOR_E_CANCELLED = 15,   /* end of a program: cancelled by its client */
    DYNASOR_E_SLOW_CONSUMER = 16, /* end of a program: its events were not taken in time */
    DYNASOR_E_POISON = 17,        /* end of a program: too many restarts without progress */
    DYNASOR_E_SHUTDOWN = 18,      /* the daemon is draining and takes no new work */
    DYNASOR_E_NUMERIC = 19,       /* end of a program: the model gave logits that are no numbers */
    DYNASOR_E_RESTARTED =
        20, /* end of a CUSTOM program: the daemon that had its branches is gone */
    DYNASOR_STATUS_COUNT = 21,
};

/* Life of a program, as its entry in the D2C region shows it. The last three are terminal. */
enum dynasor_state {
    DYNASOR_STATE_FREE = 0,
    DYNASOR_STATE_QUEUED = 1, /* accepted: copied, checked, charged; never lost from here on */
    DYNASOR_STATE_RUNNING = 2,
    DYNASOR_STATE_DONE = 3,
    DYNASOR_STATE_CANCELLED = 4,
    DYNASOR_STATE_FAILED = 5,
    DYNASOR_STATE_COUNT = 6,
};

/* What kind of reasoning program this is (design: one file per algorithm in daemon/program). */
enum dynasor_algorithm {
    DYNASOR_ALGORITHM_SINGLE = 0,    /* one branch, decoded to its end */
    DYNASOR_ALGORITHM_SC = 1,        /* self-consistency: samples, majority */
    DYNASOR_ALGORITHM_REBASE = 2,    /* reward-balanced tree search */
    DYNASOR_ALGORITHM_MCTS = 3,      /* Monte-Carlo tree search, PUCT over steps */
    DYNASOR_ALGORITHM_COT = 4,       /* one long chain of thought, probed on its way */
    DYNASOR_ALGORITHM_BEST_OF_N = 5, /* samples, the best by the reward model */
    DYNASOR_ALGORITHM_BEAM = 6,      /* the best few by the reward model, step by step */
    DYNASOR_ALGORITHM_SC_COT = 7,    /* self-consistency of chains that each are probed */
    DYNASOR_ALGORITHM_CUSTOM = 8,    /* its client decides: dynasor/custom.h */
    DYNASOR_ALGORITHM_COUNT = 9,
};

/* Numbers of an algorithm that a program may set; what is not set has the default of
 * docs/CERTAINDEX.md. */
enum dynasor_parameter {
    DYNASOR_PARAMETER_CAP = 0,   /* knob at most: samples, leaves, iterations; custom: branches */
    DYNASOR_PARAMETER_WIDTH = 1, /* of a tree: leaves, actions of a node, beams */
    DYNASOR_PARAMETER_DEPTH = 2, /* steps of a path at most */
    DYNASOR_PARAMETER_STEP_TOKENS = 3, /* tokens of a step at most */
    DYNASOR_PARAMETER_SPREAD = 4,      /* rebase: temperature of the softmax of scores */
    DYNASOR_PARAMETER_WEIGHT = 5,      /* of a path, from its steps' scores: 0 one for all, 1 least,
                                          2 mean, 3 product, 4 last */
    DYNASOR_PARAMETER_VOTE = 6,        /* 0 majority, 1 majority by weight, 2 best path by weight */
    DYNASOR_PARAMETER_EXPLORATION = 7, /* mcts: pb_c_init */
    DYNASOR_PARAMETER_EXPLORATION_BASE = 8, /* mcts: pb_c_base */
    DYNASOR_PARAMETER_EXPANSION = 9,        /* beam: children of each beam */
    DYNASOR_PARAMETER_SUBTREES = 10,        /* beam: diverse subtrees that do not compete */
    DYNASOR_PARAMETER_PROBE_TOKENS = 11,    /* cot: of a probe's answer at most; custom: of a
                                               probe at most, given and decoded */
    DYNASOR_PARAMETER_PROBE_TEMPERATURE = 12,
    DYNASOR_PARAMETER_PROBE_TOP_P = 13,
    DYNASOR_PARAMETER_HESITATION = 14,  /* cot: 1: hesitation words in a probe count */
    DYNASOR_PARAMETER_LIKENESS = 15,    /* cosine of answers that say the same; 0: equal ones do */
    DYNASOR_PARAMETER_LIKENESS_BY = 16, /* vectors: 0 the embed model's if there is one, 1 the
                                           policy model's */
    DYNASOR_PARAMETER_GUIDED = 17, /* cot: 0 probes are thrown away; what they are given and answer
                                      stays: 1 and the policy ends nothing, 2 and it does */
    DYNASOR_PARAMETER_SCORES = 18, /* custom: 1: branches may be scored */
    /* One total for several programs of a client (docs/CERTAINDEX.md, "Batches"). All but the place
     * are the same in each of them. */
    DYNASOR_PARAMETER_BATCH = 19,          /* number of the client's own; 0: none */
    DYNASOR_PARAMETER_BATCH_PROGRAMS = 20, /* that it has */
    DYNASOR_PARAMETER_BATCH_PLACE = 21,    /* of this one, from 0 */
    DYNASOR_PARAMETER_BATCH_TOKENS = 22, /* the total: decoded, probed, read by the reward model */
    DYNASOR_PARAMETER_BATCH_CAP = 23,    /* cap may be raised so far; 0: to twice cap */
    DYNASOR_PARAMETER_BATCH_STEP = 24,   /* at most by so much a round */
    DYNASOR_PARAMETER_PRIOR = 25,        /* mcts: of an action, from its tokens' log-probabilities:
                                            0 their mean, 1 their sum, 2 one for all */
    DYNASOR_PARAMETER_COUNT = 26,
};

/* How the answer is found in what a program says. */
enum dynasor_answer {
    DYNASOR_ANSWER_DEFAULT = 0, /* MATH; of SINGLE: no answer is looked for */
    DYNASOR_ANSWER_MATH = 1,    /* the last box; else after "answer is"; else the last number */
    DYNASOR_ANSWER_BOXED = 2,   /* the last \boxed{} */
    DYNASOR_ANSWER_CHOICE = 3,  /* a letter from A to choice_last */
    DYNASOR_ANSWER_NUMBER = 4,  /* the last number */
    DYNASOR_ANSWER_CODE = 5,    /* the last fenced block */
    DYNASOR_ANSWER_PREFIX = 6,  /* what follows the last answer_prefix, to the end of its line */
    DYNASOR_ANSWER_TEXT = 7,    /* everything */
    DYNASOR_ANSWER_COUNT = 8,
};

/* Which streams a program sends; at least one. */
enum dynasor_stream {
    DYNASOR_STREAM_TOKENS = 1u << 0,
    DYNASOR_STREAM_TEXT = 1u << 1,
    DYNASOR_STREAM_RESULT = 1u << 2, /* one event before the end, if that is DONE */
    DYNASOR_STREAM_ALL = 7u,
};

/* How a program came to its answer. */
enum dynasor_verdict {
    DYNASOR_VERDICT_SETTLED = 0,  /* its policy stopped it: more would not change the answer */
    DYNASOR_VERDICT_CAPPED = 1,   /* it used all that it was allowed */
    DYNASOR_VERDICT_GIVEN_UP = 2, /* more is not expected to make the answer right */
    DYNASOR_VERDICT_WHOLE = 3,    /* without a policy, at its own end */
    DYNASOR_VERDICT_COUNT = 4,
};

/* Certaindex: what its policy looks at (docs/CERTAINDEX.md). */
enum dynasor_signal {
    DYNASOR_SIGNAL_CERTAINTY = 0,  /* of the answers' groups: 1 all agree, 0 all differ */
    DYNASOR_SIGNAL_REWARD = 1,     /* of the finished paths, by the reward model */
    DYNASOR_SIGNAL_AGREEMENT = 2,  /* of the last probes with the latest */
    DYNASOR_SIGNAL_CONFIDENCE = 3, /* share of it behind the leading answer */
    DYNASOR_SIGNAL_COUNT = 4,
};

#define DYNASOR_ANSWER_BYTES_MAX 256u
#define DYNASOR_PROFILE_BYTES_MAX 47u

/* What a program came to, as it lies in shared memory; texts end with a zero. */
struct dynasor_result {
    uint64_t program;
    uint32_t verdict;        /* enum dynasor_verdict */
    uint32_t knob;           /* samples, leaves, iterations or tokens at the last decision */
    uint32_t branches_count; /* ever started */
    uint32_t known;          /* bit (1 << enum dynasor_signal): its value is known */
    double value[DYNASOR_SIGNAL_COUNT]; /* at the last decision; 0 when not known */
    uint64_t decoded_tokens;            /* by all branches; those below are apart, or part of it */
    uint64_t probe_tokens;              /* decoded by probes: apart */
    uint64_t reward_tokens;             /* read by the reward model: apart */
    uint64_t killed_tokens;             /* of decoded_tokens: in branches that were killed */
    uint32_t answer_bytes;              /* 0: no answer; a longer one is cut */
    uint32_t reserved0;
    char profile[DYNASOR_PROFILE_BYTES_MAX + 1]; /* whose policy it was */
    char answer[DYNASOR_ANSWER_BYTES_MAX + 8];
    uint64_t reserved1[5];
};

/* Fields that an INVALID, QUOTA or UNSUPPORTED answer can name. */
enum dynasor_field {
    DYNASOR_FIELD_NONE = 0,
    DYNASOR_FIELD_MAX_TOKENS = 1,
    DYNASOR_FIELD_ALGORITHM = 2,
    DYNASOR_FIELD_STREAMS = 3,
    DYNASOR_FIELD_PROMPT_BYTES = 4,
    DYNASOR_FIELD_PROMPT_TOKEN = 5,
    DYNASOR_FIELD_RESUME_TOKENS = 6,
    DYNASOR_FIELD_RESUME_TEXT_BYTES = 7,
    DYNASOR_FIELD_SPEC_SIZE = 8,
    DYNASOR_FIELD_LANES = 9,
    DYNASOR_FIELD_ARENA_BYTES = 10,
    DYNASOR_FIELD_FEATURES = 11,
    DYNASOR_FIELD_VERSION = 12,
    DYNASOR_FIELD_PROGRAMS_OF_UID = 13,
    DYNASOR_FIELD_QUEUED_BYTES_OF_UID = 14,
    DYNASOR_FIELD_CONNECTIONS_OF_UID = 15,
    DYNASOR_FIELD_REGION_BYTES_OF_UID = 16,
    DYNASOR_FIELD_CLIENTS = 17,
    DYNASOR_FIELD_RECORD_OP = 18,
    DYNASOR_FIELD_RECORD_INDEX = 19,
    DYNASOR_FIELD_RECORD_RESERVED = 20,
    DYNASOR_FIELD_RECORD_SEQUENCE = 21,
    DYNASOR_FIELD_PAYLOAD_OFFSET = 22,
    DYNASOR_FIELD_CONSUMED_POSITION = 23,
    DYNASOR_FIELD_PROGRAM_ID = 24,
    DYNASOR_FIELD_HELLO = 25,
    DYNASOR_FIELD_OPTIONS_SIZE = 26,
    DYNASOR_FIELD_PROMPTS_TOTAL_BYTES = 27,
    DYNASOR_FIELD_PROGRAMS = 28,
    DYNASOR_FIELD_PROMPT_TEXT = 29,
    DYNASOR_FIELD_DOORBELL = 30,
    /* Fractions are named in thousandths, penalties and biases by their magnitude. */
    DYNASOR_FIELD_TEMPERATURE = 31,
    DYNASOR_FIELD_TOP_P = 32,
    DYNASOR_FIELD_MIN_P = 33,
    DYNASOR_FIELD_TOP_K = 34,
    DYNASOR_FIELD_REPETITION_PENALTY = 35,
    DYNASOR_FIELD_PRESENCE_PENALTY = 36,
    DYNASOR_FIELD_FREQUENCY_PENALTY = 37,
    DYNASOR_FIELD_BIASES = 38,
    DYNASOR_FIELD_BIAS = 39,
    DYNASOR_FIELD_BIAS_TOKEN = 40,
    DYNASOR_FIELD_STOPS = 41,
    DYNASOR_FIELD_STOP_BYTES = 42,
    DYNASOR_FIELD_STOP_TOKENS = 43,
    DYNASOR_FIELD_STOP_TOKEN = 44,
    DYNASOR_FIELD_SPEC_FLAGS = 45,
    DYNASOR_FIELD_CONTEXT_TOKENS = 46, /* prompt and max_tokens together */
    DYNASOR_FIELD_CHAT = 47,
    DYNASOR_FIELD_PARAMETER = 48,
    DYNASOR_FIELD_BRANCHES = 49, /* that a program may have at once */
    DYNASOR_FIELD_PARAMETERS = 50,
    DYNASOR_FIELD_PROFILE = 51,
    DYNASOR_FIELD_ANSWER = 52,
    DYNASOR_FIELD_CHOICE_LAST = 53,
    DYNASOR_FIELD_ANSWER_PREFIX_BYTES = 54,
    DYNASOR_FIELD_STEP_END_BYTES = 55,
    DYNASOR_FIELD_COMMAND = 56,       /* enum dynasor_command */
    DYNASOR_FIELD_BRANCH = 57,        /* number of one */
    DYNASOR_FIELD_BRANCH_STATE = 58,  /* that it would have to be in: least .. most, and is */
    DYNASOR_FIELD_BRANCH_TOKENS = 59, /* own ones of a branch, or that it may decode */
    DYNASOR_FIELD_GIVEN_BYTES = 60,
    DYNASOR_FIELD_SIGNAL = 61,
    DYNASOR_FIELD_SIGNAL_VALUE = 62, /* in thousandths */
    DYNASOR_FIELD_VERDICT = 63,
    /* From here on in the order of enum dynasor_parameter; values that need not be whole are named
     * in thousandths. */
    DYNASOR_FIELD_CAP = 64,
    DYNASOR_FIELD_WIDTH = 65,
    DYNASOR_FIELD_DEPTH = 66,
    DYNASOR_FIELD_STEP_TOKENS = 67,
    DYNASOR_FIELD_SPREAD = 68,
    DYNASOR_FIELD_WEIGHT = 69,
    DYNASOR_FIELD_VOTE = 70,
    DYNASOR_FIELD_EXPLORATION = 71,
    DYNASOR_FIELD_EXPLORATION_BASE = 72,
    DYNASOR_FIELD_EXPANSION = 73,
    DYNASOR_FIELD_SUBTREES = 74,
    DYNASOR_FIELD_PROBE_TOKENS = 75,
    DYNASOR_FIELD_PROBE_TEMPERATURE = 76,
    DYNASOR_FIELD_PROBE_TOP_P = 77,
    DYNASOR_FIELD_HESITATION = 78,
    DYNASOR_FIELD_LIKENESS = 79,
    DYNASOR_FIELD_LIKENESS_BY = 80,
    DYNASOR_FIELD_GUIDED = 81,
    DYNASOR_FIELD_SCORES = 82,
    DYNASOR_FIELD_BATCH = 83,
    DYNASOR_FIELD_BATCH_PROGRAMS = 84,
    DYNASOR_FIELD_BATCH_PLACE = 85,
    DYNASOR_FIELD_BATCH_TOKENS = 86,
    DYNASOR_FIELD_BATCH_CAP = 87,
    DYNASOR_FIELD_BATCH_STEP = 88,
    DYNASOR_FIELD_PRIOR = 89,
    DYNASOR_FIELD_COUNT = 90,
};

/* What the client of a CUSTOM program says to it. */
enum dynasor_command {
    DYNASOR_COMMAND_GIVE = 1, /* text for the next probe, a piece */
    DYNASOR_COMMAND_FORK = 2,
    DYNASOR_COMMAND_PROBE = 3,
    DYNASOR_COMMAND_EXTEND = 4,
    DYNASOR_COMMAND_SCORE = 5,
    DYNASOR_COMMAND_KILL = 6,
    DYNASOR_COMMAND_REPORT = 7,
    DYNASOR_COMMAND_FINISH = 8,
    DYNASOR_COMMAND_COUNT = 9,
};

/* Of a branch of a CUSTOM program. HELD, STEP, ENDED and CUT are settled. */
enum dynasor_branch_state {
    DYNASOR_BRANCH_RUNNING = 1, /* or waits for room, or for the reward model */
    DYNASOR_BRANCH_HELD = 2,    /* at its own limit of tokens: may be extended */
    DYNASOR_BRANCH_STEP = 3,    /* at the end of a step: may be extended */
    DYNASOR_BRANCH_ENDED = 4,   /* by the model, a stop token or a stop string */
    DYNASOR_BRANCH_CUT = 5,     /* at the program's max_tokens, or a probe at its limit */
    DYNASOR_BRANCH_DEAD = 6,    /* killed, or refused when it should have begun */
    DYNASOR_BRANCH_STATES_COUNT = 7,
};

/* Where branches begin: the end of the prompt. In dynasor_finish(): none. */
#define DYNASOR_ROOT UINT32_MAX

/* A branch of a CUSTOM program as an event tells it. */
struct dynasor_branch {
    uint32_t number;
    uint32_t state;        /* enum dynasor_branch_state */
    uint32_t tokens_count; /* of its own, with those it was given */
    uint32_t path_tokens;  /* with its parents', after the prompt; READY: the prompt's */
    uint32_t text_bytes;   /* of its own, when its text was asked for */
    uint32_t scored;       /* 1: score holds */
    float score;           /* of its last token, by the reward model */
    float log_probability; /* mean of its own decoded tokens */
    float entropy;         /* of their distributions, likewise, in nats */
    uint32_t command;      /* REFUSED: enum dynasor_command */
    uint32_t field;        /* REFUSED: enum dynasor_field; dynasor_error() says it in words */
    uint32_t reserved;
};

/* Limits of the ABI. The daemon may be configured lower and says so in its hello reply. */
#define DYNASOR_LANES_MAX 16u         /* submission lanes of one client */
#define DYNASOR_PROGRAMS_MAX 512u     /* unreleased programs of one client */
#define DYNASOR_ARENA_BYTES_MIN 4096u /* payload arena, a power of two */
#define DYNASOR_ARENA_BYTES_MAX 67108864u
#define DYNASOR_MAX_TOKENS_MAX 1048576u /* tokens of one program */
#define DYNASOR_BIASES_MAX 300u         /* logit biases of one program */
#define DYNASOR_STOPS_MAX 8u            /* stop strings of one program */
#define DYNASOR_STOP_BYTES_MAX 128u     /* of one of them */
#define DYNASOR_STOP_TOKENS_MAX 8u
#define DYNASOR_PARAMETERS_MAX 32u /* settings of one program */
#define DYNASOR_ANSWER_PREFIX_BYTES_MAX 64u
#define DYNASOR_STEP_END_BYTES_MAX 15u
#define DYNASOR_GIVEN_BYTES_MAX 1024u /* of what a probe of a CUSTOM program is given */
#define DYNASOR_SOCKET_PATH "/run/dynasor/dynasor.sock"

-- migrate:up

-- Each symbol is told one outcome, so a merged one waits for nobody any more: what waited when this version came is done.
UPDATE results SET resolved = true WHERE outcome = 'merged' AND NOT resolved;
DROP INDEX results_waiting;
DROP INDEX results_called;

-- migrate:down

CREATE INDEX results_called ON results (task, called_at) WHERE called_at IS NOT NULL;
CREATE INDEX results_waiting ON results (task) WHERE outcome = 'merged' AND NOT resolved;

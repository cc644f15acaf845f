-- Whether a browser started with compiled code of an earlier run: its first loads are not to be compared with others then.

ALTER TABLE browsers ADD COLUMN kept_code BOOLEAN;
